"""The HTTP side: Lightning address and zaps, NIP-05, health and metrics. A file for each group of routes."""

from dvm.gateway.app import App, Site, make_app
from dvm.gateway.health import Facts
from dvm.gateway.lightning_address import ZapDesk
from dvm.gateway.server import Gateway, GatewayError

__all__ = ["App", "Facts", "Gateway", "GatewayError", "Site", "ZapDesk", "make_app"]
