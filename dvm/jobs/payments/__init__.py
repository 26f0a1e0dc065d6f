"""How a job is paid: invoices, settlements, hold invoices that are promises until the answer, and zaps."""
