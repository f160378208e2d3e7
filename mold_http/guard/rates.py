"""Rate limits for each address: a token bucket as one number (GCRA)."""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from ipaddress import IPv6Address, ip_address

import attrs

from mold_core.errors import SettingsError
from mold_http.errors import RateLimitedError
from mold_http.routes.route import Tier

__all__ = ["Bucket", "Rate", "RateLimits", "count", "parse_rate"]

_PERIODS = {"s": 1, "sec": 1, "second": 1, "m": 60, "min": 60, "minute": 60, "h": 3600, "hr": 3600, "hour": 3600}
_RATE = re.compile(r"(\d{1,9})\s*/\s*([a-z]+)")

# Maximum number of buckets; beyond that the least recently used one is dropped.
MAX_ADDRESSES = 10_000

_READ_FACTOR = 10
_MAX_READS = 1000
_MAX_BURST = 100


@attrs.frozen
class Rate:
    """A number of requests per period, and a burst."""

    count: int
    period_s: float
    burst: int


def parse_rate(text: str, burst: int | None) -> Rate:
    """Parse MOLD_RATE_LIMIT, such as ``10/min``. The default burst is twice the rate, at most 100.

    Raises SettingsError.
    """
    match = _RATE.fullmatch(text.strip().lower())
    if match is None or match[2] not in _PERIODS or int(match[1]) < 1:
        raise SettingsError(
            f"MOLD_RATE_LIMIT must be a number and a period such as 10/min, not {text!r}",
            field="rate_limit",
            value=text,
            hint=f"periods are {', '.join(_PERIODS)}",
        )
    count = int(match[1])
    return Rate(count, _PERIODS[match[2]], burst or min(2 * count, _MAX_BURST))


class Bucket:
    """The buckets of all addresses for one rate.

    One number is stored per address: the time when its bucket will be full again. A request moves it by the time of one
    token, and is refused if it would move further ahead than the burst allows.
    """

    def __init__(self, rate: Rate, max_addresses: int = MAX_ADDRESSES) -> None:
        self._token_s = rate.period_s / rate.count
        self._tolerance_s = self._token_s * (rate.burst - 1)
        self._max_addresses = max_addresses
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, address: str, now: float) -> float:
        """Take a token and return 0, or return the seconds until there is one."""
        full_at = max(self._full_at.get(address, now), now)
        wait_s = full_at - now - self._tolerance_s
        if wait_s > 1e-9:
            return wait_s
        self._full_at[address] = full_at + self._token_s
        self._full_at.move_to_end(address)
        if len(self._full_at) > self._max_addresses:
            self._full_at.popitem(last=False)
        return 0.0


class RateLimits:
    """Both tiers: the rate itself for generation, ten times as much for reads."""

    def __init__(self, rate: Rate) -> None:
        reads = Rate(
            min(rate.count * _READ_FACTOR, max(_MAX_READS, rate.count)),
            rate.period_s,
            min(rate.burst * _READ_FACTOR, max(_MAX_READS, rate.burst)),
        )
        self._buckets: dict[Tier, Bucket] = {"generation": Bucket(rate), "read": Bucket(reads)}

    def take(self, tier: Tier, address: str, now: float) -> float:
        """Count a request of an address. Returns 0, or the seconds until it is allowed."""
        return self._buckets[tier].take(network_of(address), now)


def count(rates: RateLimits | None, tier: Tier, address: str) -> None:
    """Count a request of an address. Raises RateLimitedError beyond the rate; `rates` of None: there is no limit."""
    wait_s = rates.take(tier, address, time.monotonic()) if rates is not None else 0.0
    if wait_s > 0:
        raise RateLimitedError("rate limit exceeded", headers={"Retry-After": str(int(wait_s) + 1)})


def network_of(address: str) -> str:
    """Return the key of a client: an IPv4 address, or the /64 prefix of an IPv6 address."""
    if ":" not in address:
        return address
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if not isinstance(ip, IPv6Address):
        return str(ip)
    return str(ip.ipv4_mapped) if ip.ipv4_mapped else str(IPv6Address(int(ip) >> 64 << 64))
