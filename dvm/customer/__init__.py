"""The buyer's side: for people (`dvm ask`), bots and agents."""

from dvm.customer.account import Account, examine, fetch_account
from dvm.customer.accounting import AccountFailed, ToppedUp, Withdrawn
from dvm.customer.archive import Archive, ArchiveError
from dvm.customer.checking import compare
from dvm.customer.client import Customer, JobFailed
from dvm.customer.payment import Options, Payer
from dvm.customer.purse import Purse, PurseError, data_directory, open_purse
from dvm.customer.updates import (
    Answered,
    Asked,
    Declined,
    Done,
    Due,
    Failed,
    Paid,
    Partial,
    PaymentUnclear,
    Processing,
    Quoted,
    Receipted,
    Update,
    Waiting,
    as_dict,
    receipt_dict,
)

__all__ = [
    "Account",
    "AccountFailed",
    "Answered",
    "Archive",
    "ArchiveError",
    "Asked",
    "Customer",
    "Declined",
    "Done",
    "Due",
    "Failed",
    "JobFailed",
    "Options",
    "Paid",
    "Partial",
    "Payer",
    "PaymentUnclear",
    "Processing",
    "Purse",
    "PurseError",
    "Quoted",
    "Receipted",
    "ToppedUp",
    "Update",
    "Waiting",
    "Withdrawn",
    "as_dict",
    "compare",
    "data_directory",
    "examine",
    "fetch_account",
    "open_purse",
    "receipt_dict",
]
