"""What inferences cost, computed from the profile's figures and the measured rate."""

from __future__ import annotations

from edgeclin.profiles import Profile
from edgeclin.records import Record

COUNT = 10_000
_HOUR_S, _YEAR_S = 3600, 365.25 * 86_400


class Cost(Record, frozen=True):
    """USD for 10,000 inferences of a device that is always busy with them: computed, not measured.

    Attributes:
        power_usd, device_usd: electricity, and the device's price spread over its life; None where
            the profile has no such figure.
        basis: the figures that it was computed from.
    """

    power_usd: float | None
    device_usd: float | None
    basis: str


def cost(
    profile: Profile, architecture: str, per_second: float, usd_per_kwh: float, years: float
) -> Cost | str:
    """The cost, or why it cannot be computed.

    Args:
        architecture: of the machine on which `per_second` samples were answered.
    """
    if profile.architecture != architecture:
        return (
            f"not computed: measured on {architecture}, while the figures of {profile.name} are of "
            f"an {profile.architecture} device"
        )
    if profile.power_w is None and profile.price_usd is None:
        return f"not computed: the profile {profile.name} has neither power_w nor price_usd"
    if per_second <= 0:
        return "not computed: no rate was measured (it takes the scenario offline)"
    seconds = COUNT / per_second
    power = device = None
    basis = [f"{per_second:.4g} inferences a second"]
    if profile.power_w is not None:
        power = profile.power_w.value / 1000 * seconds / _HOUR_S * usd_per_kwh
        basis.append(
            f"{profile.power_w.value:g} W ({profile.power_w.source}) at {usd_per_kwh:g} USD/kWh"
        )
    if profile.price_usd is not None:
        device = profile.price_usd.value * seconds / (years * _YEAR_S)
        basis.append(
            f"{profile.price_usd.value:g} USD ({profile.price_usd.source}) over {years:g} years"
        )
    return Cost(power, device, "; ".join(basis))
