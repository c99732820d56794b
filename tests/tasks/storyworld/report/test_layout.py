from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_narrative.tasks.storyworld.report.layout import layered, reachable


def test_a_chain_comes_in_layers() -> None:
    layout = layered([1, 1, 1], [(0, 1), (1, 2)])
    assert [layer for _, layer in layout.positions] == [0, 1, 2]
    assert layout.width == pytest.approx(1) and layout.layers == 3 and not layout.upward


def test_a_shortcut_bends_around_what_lies_between() -> None:
    layout = layered([1, 1, 1], [(0, 1), (1, 2), (0, 2)])
    ((column, layer),) = layout.bends[2]
    assert layer == 1 and abs(column - layout.positions[1][0]) >= 0.7 - 1e-9


def test_a_way_back_and_a_loop_lead_up() -> None:
    assert layered([1, 1], [(0, 1), (1, 0), (1, 1)]).upward == {1, 2}


def test_what_cannot_be_reached_lies_at_the_foot() -> None:
    layout = layered([1] * 5, [(0, 1), (2, 1)], row=2)
    assert [layer for _, layer in layout.positions] == [0, 1, 2, 2, 3]


def test_the_foot_lies_under_the_middle() -> None:
    columns = [column for column, _ in layered([1] * 6, [(0, 1), (0, 2), (0, 3)]).positions]
    assert (columns[4] + columns[5]) / 2 == pytest.approx((columns[1] + columns[3]) / 2)


def test_reachable_follows_the_edges() -> None:
    assert reachable(5, [(0, 2), (2, 0), (3, 1), (2, 4)]) == {0, 2, 4}
    assert reachable(0, []) == set()


def test_crossings_are_undone() -> None:
    layout = layered([1] * 5, [(0, 1), (0, 2), (1, 4), (2, 3)])
    columns = [column for column, _ in layout.positions]
    assert (columns[1] < columns[2]) == (columns[4] < columns[3])


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[float], list[tuple[int, int]]]:
    sizes = draw(st.lists(st.sampled_from([0.45, 1.0]), min_size=1, max_size=12))
    vertex = st.integers(0, len(sizes) - 1)
    return sizes, draw(st.lists(st.tuples(vertex, vertex), max_size=30))


@given(graphs())
def test_any_graph_is_laid_out_without_overlap(graph: tuple[list[float], list[tuple[int, int]]]) -> None:
    sizes, edges = graph
    layout = layered(sizes, edges)
    for (a, place), (b, other) in combinations(list(zip(sizes, layout.positions, strict=True)), 2):
        assert place[1] != other[1] or abs(place[0] - other[0]) >= (a + b) / 2 - 1e-6
    for size, (column, layer) in zip(sizes, layout.positions, strict=True):
        assert size / 2 - 1e-6 <= column <= layout.width - size / 2 + 1e-6 and 0 <= layer < layout.layers
    for index, (start, end) in enumerate(edges):
        down = layout.positions[start][1] < layout.positions[end][1]
        assert index in layout.upward or down
        if index in layout.bends:
            assert len(layout.bends[index]) == layout.positions[end][1] - layout.positions[start][1] - 1
    assert set(layout.bends) | layout.upward == set(range(len(edges)))
