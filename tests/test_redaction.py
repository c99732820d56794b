"""What is hidden wherever settings, names and messages are shown or stored."""

import time

import pytest

from lit_narrative.redaction import REDACTED, is_secret, redact, redact_text

KEY = "hunter2-0123456789"


@pytest.mark.parametrize(
    "text",
    [
        f"my_rewards:Judge(url='https://judge.org/score?key={KEY}', limit=3)",
        f"https://someone:{KEY}@judge.org/score",
        f"postgres://someone:a@{KEY}@host/base",
        f"my_rewards:Judge(api_key='{KEY}')",
        f"my_rewards:Judge(apiKey=r'a\\'b' '{KEY}', n=1)",
        f'my_rewards:Judge(password="""{KEY}""")',
        f"my_rewards:Judge(auth=('some)one', '{KEY}'))",
        f"my_rewards:Judge(keys=[['a'], ['{KEY}']])",
        f"my_rewards:Judge(headers={{'X-Api-Key': '{KEY}'}})",
        f"my_rewards:Judge(headers={{'Authorization': 'Bearer {KEY}'}})",
        f"my_rewards:Judge(headers=[('a', 'b'), ('X-Api-Key', '{KEY}')])",
        f'{{\\"client_secret\\": \\"{KEY}\\"}}',
        f"--model.api-key={KEY}",
        f"401: Authorization: Bearer {KEY}",
        f"rejected Bearer {KEY}",
        f"Incorrect API key provided: sk-{KEY}{KEY}.",
        f"HTTPReward(key_env='{KEY}')",
        f"credentials='{KEY} that never ends",
    ],
)
def test_a_secret_in_a_text_is_hidden_once_and_for_all(text: str) -> None:
    hidden = redact_text(text)
    assert "hunter2" not in hidden
    assert REDACTED in hidden
    assert redact_text(hidden) == hidden


@pytest.mark.parametrize(
    "text",
    [
        "{valid_json: 0.5, secrets: 0.15}",
        "max_new_tokens=512, tokenizer: {kind: words}, pad_token_id=5, key_dim=64",
        "lit_narrative.rl.rewards.http:HTTPReward(url='https://judge.org/score', key_env='JUDGE_KEY')",
        "my_rewards:Judge(author='Poe', monkey='x', keyword='y')",
        "KeyError: 'Theme'",
        "my_secrets:Judge(limit=3)",
        "https://host/model@v2",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact_text(text) == text


def test_settings_are_gone_through() -> None:
    settings = {
        "model": {"rewards": {f"m:J(key='{KEY}')": 0.5, f"m:J(key='{KEY}x')": 0.25, "secrets": 0.25}},
        "logger": [{"api_key": KEY, "host": f"https://a:{KEY}@h", "token": None, "auth": {"user": KEY}}],
        "key_env": "JUDGE_KEY",
        "lr": 1e-3,
    }
    assert redact(settings) == {
        "model": {"rewards": {f"m:J(key='{REDACTED}')": 0.5, f"m:J(key='{REDACTED}')_2": 0.25, "secrets": 0.25}},
        "logger": [{"api_key": REDACTED, "host": f"https://{REDACTED}@h", "token": None, "auth": {"user": REDACTED}}],
        "key_env": "JUDGE_KEY",
        "lr": 1e-3,
    }


@pytest.mark.parametrize(
    "name", ["key", "model.api_key", "accessToken", "HF_TOKEN", "access_tokens", "db-password", "hftoken", "APIKey"]
)
def test_names_of_secrets(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize("name", ["tokens", "tokenizer", "key_file", "num_key_value_heads_size", "author", "m.token:K"])
def test_names_of_other_things(name: str) -> None:
    assert not is_secret(name)


@pytest.mark.parametrize("part", ["key=", "key='", 'key=["', "a://@", "a-", "sk-a", "AKIA", "'", "key: ("])
def test_a_hostile_message_is_read_in_linear_time(part: str) -> None:
    began = time.perf_counter()
    redact_text(part * (60_000 // len(part)))
    assert time.perf_counter() - began < 1
