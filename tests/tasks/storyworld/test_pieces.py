"""Pieces of a world's text: spans of encounters and options, and what a play has read."""

import json

import numpy as np

from lit_narrative.tasks.storyworld.generator import Skew, corpus
from lit_narrative.tasks.storyworld.pieces import encounter_spans, moment_pieces
from lit_narrative.tasks.storyworld.simulator.play import plays
from lit_narrative.tasks.storyworld.verifiers.base import VerifierConfig, read_text


def test_spans_hold_what_the_parser_reads() -> None:
    for row in corpus(40, 3, Skew(gates=1)):
        for text in (row.completion, json.dumps(json.loads(row.completion), indent=2)):
            encounters = json.loads(text)["encounters"]
            spans = encounter_spans(text)
            assert [json.loads(text[slice(*one.whole)]) for one in spans] == encounters
            options = [[json.loads(text[slice(*span)]) for span in one.options] for one in spans]
            assert options == [encounter.get("options", []) for encounter in encounters]


def test_brackets_in_strings_repeated_keys_and_other_lists_do_not_matter() -> None:
    text = (
        '{"encounters":[{"id":"no","options":[{}]}],"more":{"encounters":[{}],"options":[{"options":[{}]}]},'
        '"encounters":[{"id":"a}]\\"[","options":[{"x":[{"options":[{}]}]},{"id":"]"}]},{"id":"b"}]}'
    )
    spans = encounter_spans(text)
    assert [len(one.options) for one in spans] == [2, 0]
    assert [json.loads(text[slice(*one.whole)])["id"] for one in spans] == ['a}]"[', "b"]
    for broken in ("", "}", "[[", '{"encounters":[{"options":[{', '{"encounters":[{]]}}}'):
        encounter_spans(broken)


def test_a_play_has_read_its_encounter_and_the_options_it_chose() -> None:
    (row,) = corpus(1, 3)
    world = read_text(row.completion, 0, VerifierConfig()).story
    runs = list(plays(world, 3, np.random.default_rng(0)))
    moments = iter(moment_pieces(row.completion, world, runs))
    for run in runs:
        chosen: list[str] = []
        for step in run.steps:
            whole, *options = (json.loads(row.completion[slice(*span)]) for span in next(moments))
            assert whole["id"] == step.encounter
            assert [option["id"] for option in options] == chosen
            chosen += [] if step.choice is None else [step.options[step.choice]]
    assert next(moments, None) is None


def test_a_world_whose_reader_dropped_a_part_has_no_pieces() -> None:
    (row,) = corpus(1, 3)
    value = json.loads(row.completion)
    value["encounters"].insert(0, [])
    text = json.dumps(value)
    world = read_text(text, 0, VerifierConfig()).story
    assert moment_pieces(text, world, list(plays(world, 1, np.random.default_rng(0)))) == []
