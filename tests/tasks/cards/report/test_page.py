"""The page of a run of the card game."""

import html
import json
import re
import shutil
from pathlib import Path

import markupsafe
import pytest

from lit_narrative.report.page import build_page
from lit_narrative.tasks.cards.report.outcome import meaning
from lit_narrative.tasks.cards.report.page import SECTIONS, report_on
from lit_narrative.tasks.cards.report.reader import read_cards
from lit_narrative.tasks.cards.report.run import CardsRun
from lit_narrative.tasks.cards.report.summary import summarise_cards
from tests.report.check_page import ATTACK, check
from tests.tasks.cards.report.make_cards_run import make_cards_run


def page_of(run: CardsRun) -> str:
    return build_page(run.folder.out, report_on(run))


def text_of(page: str) -> str:
    page = re.sub(r"<(style|pre|svg)[^>]*>.*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def test_the_page_is_whole_and_its_links_lead_somewhere(cards_out: Path) -> None:
    checker = check(page_of(read_cards(cards_out)))
    assert checker.tags["section"] == len(SECTIONS) + 2
    inner = {anchor.removeprefix("#") for anchor in checker.anchors if anchor.startswith("#")}
    assert inner == set(checker.ids)
    outer = [anchor for anchor in checker.anchors if not anchor.startswith("#")]
    assert len(outer) == 2 and all((cards_out / anchor).is_file() for anchor in outer)
    assert not checker.tags.keys() & {"script", "link", "img", "iframe", "object", "form"}


def test_no_value_is_nan_or_none(cards_out: Path) -> None:
    assert not re.search(r"\b(nan|inf|None|null|undefined)\b", text_of(page_of(read_cards(cards_out))))


def test_page_and_summary_say_what_changed_and_no_more(cards_out: Path) -> None:
    run = read_cards(cards_out)
    changes = summarise_cards(run)["changes"]
    assert changes["grpo"]["paraphrase_mix"]["direction"] == "rise"
    assert changes["grpo"]["paraphrase_mix"]["seeds"].keys() == {"0", "1"}
    assert changes["grpo"]["length_shift"]["direction"] != "rise"
    text = text_of(page_of(run))
    assert re.search(r"Mixture's rewordings \W*trained by RL\W* rose on every seed", text)
    assert "held out of every mixture: length_shift" in text
    home = summarise_cards(run)["seeds"]["0"]["policies"]["sft"]["splits"]["id_test"]
    assert home["trained"] == "in distribution" and home["gap"] is None
    assert f"{100 * home['accuracy']:.1f}%" in text
    json.dumps(summarise_cards(run), allow_nan=False)


def test_reinforcement_is_set_beside_as_much_more_imitation(cards_out: Path) -> None:
    run = read_cards(cards_out)
    (beside,) = summarise_cards(run)["baselines"].items()
    assert beside[0] == "grpo - more"
    assert beside[1]["paraphrase_mix"]["direction"] == "rise"
    against = dict(summarise_cards(run)["changes"])
    for split, found in beside[1].items():
        parts = [against[arm][split]["mean"] for arm in ("grpo", "more")]
        assert found["mean"] == pytest.approx(parts[0] - parts[1])
    assert re.search(r"Mixture's rewordings .{0,200}more often right", text_of(page_of(run)))


def test_one_seed_and_only_sft(one_seed: Path) -> None:
    shutil.rmtree(one_seed / "circuits_sft")
    for name in ("test_more", "test_grpo"):
        shutil.rmtree(one_seed / name)
    page = page_of(read_cards(one_seed))
    check(page)
    text = text_of(page)
    assert "Only sft was tested in this run" in text and "No circuit analysis was run" in text
    assert "on every seed" not in text and "Means over seeds" not in text


def test_arms_without_sft_are_not_compared(one_seed: Path) -> None:
    shutil.rmtree(one_seed / "test_sft")
    page = page_of(read_cards(one_seed))
    check(page)
    assert "sft was not tested on the same sets" in text_of(page)
    assert summarise_cards(read_cards(one_seed))["changes"]["grpo"] == {}


def test_an_arm_may_be_missing_under_a_seed(cards_out: Path) -> None:
    shutil.rmtree(cards_out / "seed_1" / "test_grpo")
    run = read_cards(cards_out)
    check(page_of(run))
    assert summarise_cards(run)["changes"]["grpo"]["id_test"]["seeds"].keys() == {"0"}


def test_jobs_by_hand_have_no_seconds(one_seed: Path) -> None:
    for path in (*one_seed.glob("*/job.json"), *one_seed.glob("*/metrics.csv")):
        path.unlink()
    page = page_of(read_cards(one_seed))
    check(page)
    assert "Seconds by job" not in text_of(page)


def test_hostile_texts_are_escaped_and_bounded(one_seed: Path) -> None:
    tags = check(page_of(read_cards(one_seed))).tags
    for path in one_seed.glob("test_*/eval/test.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        hostile = {"prompt": ATTACK * 99, "text": ATTACK * 99, "answer": ATTACK, "expected": ATTACK * 9}
        path.write_text("\n".join(json.dumps({**row, **hostile}) for row in rows))
    manifest = one_seed / "circuits_sft" / "circuits" / "manifest.json"
    manifest.write_text(json.dumps({"figures": {ATTACK: 1.0}, "errors": {ATTACK: ATTACK * 99}}))
    (manifest.parent / '"><b>&.html').touch()
    (one_seed / "sft" / "config.yaml").write_text(
        f"# {ATTACK}\n".replace("\x00", "") + "model: {class_path: A}\ndata: {}\ntrainer: {}"
    )
    page = page_of(read_cards(one_seed))
    checker = check(page)
    assert not checker.tags.keys() - tags.keys() and "onerror" not in checker.attributes
    assert "\x00" not in page and "\u202e" not in page and len(page) < 2_000_000


@pytest.mark.parametrize(("seeds", "named"), [((), "7"), ((0, 1), "0 1")])
def test_the_command_is_the_one_that_was_given_if_it_is_known(
    tmp_path: Path, seeds: tuple[int, ...], named: str
) -> None:
    out = make_cards_run(tmp_path / "my run", seeds=seeds, policies=("sft",), size=4)
    command = f"lit-narrative run own.yaml --out '{out}' --seed {named} --set sft.model.init_args.lr=0.5"
    assert f"<pre>{markupsafe.escape(command)}</pre>" in page_of(read_cards(out))
    (out / "recipe.json").unlink()
    page = page_of(read_cards(out))
    assert "lit-narrative run" not in page and "does not say by which recipe" in page


def test_policies_are_what_their_training_was_whatever_their_names(one_seed: Path) -> None:
    policies = read_cards(one_seed).seeds[0].policies
    assert meaning(policies["sft"]) == "imitates worked answers on known rules"
    assert meaning(policies["more"]) == "continues: imitates worked answers on known rules"
    assert meaning(policies["grpo"]) == "continues: reinforcement on known rules, rewordings and other colours"
    path = one_seed / "grpo" / "config.yaml"
    path.write_text(re.sub(r"      (paraphrase|new_colors): .*\n", "", path.read_text()))
    assert meaning(read_cards(one_seed).seeds[0].policies["grpo"]) == "continues: reinforcement on known rules"
    path.unlink()
    assert meaning(read_cards(one_seed).seeds[0].policies["grpo"]) == ""


def test_circuits_of_sets_that_are_not_answered_by_the_rule_are_marked(one_seed: Path) -> None:
    text = text_of(page_of(read_cards(one_seed)))
    for name, value in (("ablation/new_colors/jaccard", "0.50"), ("patching/compositional/recovery", "2.04")):
        assert re.search(rf"{name} [^/]* weak {value}", text), name
    assert re.search(r"patching/id_test/recovery [^/]* at best 0.75", text)
