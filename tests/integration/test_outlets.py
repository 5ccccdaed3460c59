"""What a finished encode tells Airflow: an asset for each output."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import Asset, AssetAlias

from airflow_ams.sensors.waiting import VERSION
from tests.integration.submits import MODES, Try, encode, operator
from tests.integration.waits import all_apis

if TYPE_CHECKING:
    from airflow_ams.emulator.process import Emulator


class Telling(Try):
    """A try that has Airflow's own collector of outlet events."""

    events: Any = None

    @property
    def context(self) -> Any:
        """What Airflow hands to `execute`."""
        return {**super().context, "outlet_events": self.events}


def collector() -> Any:
    """Return what the running Airflow collects events in."""
    try:
        from airflow.sdk.execution_time.context import OutletEventAccessors
    except ImportError:
        from airflow.utils.context import OutletEventAccessors
    return OutletEventAccessors()


def events_of(events: Any, alias: Any) -> list[tuple[str, Any]]:
    """Return address and extra of each event of an alias."""
    of_alias = events[alias]
    found = getattr(of_alias, "asset_alias_events", None)
    if found is not None:
        return [(event.dest_asset_key.uri, event.extra) for event in found]
    return [(event["dest_dataset_uri"], event["extra"]) for event in of_alias.dataset_alias_events]


@all_apis
@MODES
def test_each_output_is_an_asset(ams: Emulator, deferrable: bool) -> None:
    """Of the alias, at its own address, with the job's document; other outlets are Airflow's affair."""
    alias, one = AssetAlias("encoded"), Telling()
    one.events = collector()
    given = encode(ams, states=["Finished"], name="clip")
    outlets = [alias, Asset("ams://elsewhere")]
    job = one.run(operator(given, deferrable=deferrable, outlets=outlets))
    [(uri, extra)] = events_of(one.events, alias)
    assert json.loads(json.dumps(extra)) == job
    # Airflow 2.11 makes a set of these.
    assert VERSION >= (3,) or frozenset(extra.items())
    assert uri == (job["outputs"][0]["uri"] if ams.api == "v2" else "ams://ams_default/out")
