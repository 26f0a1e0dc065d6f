"""The commands of `dvm`, one file each; every file's `main` is what the command line calls."""
