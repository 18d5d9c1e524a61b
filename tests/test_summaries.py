"""Every kind of summary says where it goes, and every place knows the kinds that go there."""

import pytest

from predboard.panels.pages.report import TAB_HELP
from predboard.summaries import BandChart, HParams, LineChart, Output, Summary, Tab, Tiles
from predboard.visualization import events

KINDS = Summary.__subclasses__()


def test_there_are_kinds_for_every_tab_and_the_report_explains_each() -> None:
    assert {kind.tab for kind in KINDS} - {None} == set(Tab) == set(TAB_HELP)


@pytest.mark.parametrize("kind", KINDS)
def test_what_goes_into_the_event_file_can_be_encoded(kind: type[Summary]) -> None:
    otherwise = (
        LineChart,
        BandChart,
        HParams,
        Tiles,
    )  # charts and sessions have encoders of their own; tiles are drawn
    encodable = events.encode.dispatch(kind) is not events.encode.dispatch(object)
    assert encodable == (Output.EVENTS in kind.output and kind not in otherwise)


def test_a_kind_that_does_not_say_where_it_goes_cannot_be_defined() -> None:
    with pytest.raises(TypeError, match="'output' and 'tab'"):

        class Sound(Summary):  # type: ignore[call-arg]  # that is the fault
            """It forgot both."""
