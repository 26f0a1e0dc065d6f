"""The life of a job: transitions (pure), admission policies, services, and the engine that carries them out."""

from dvm.jobs.engine import Engine
from dvm.jobs.kinds import KINDS, Kind, Service, all_kinds
from dvm.jobs.shop import Settings, Shop

__all__ = ["KINDS", "Engine", "Kind", "Service", "Settings", "Shop", "all_kinds"]
