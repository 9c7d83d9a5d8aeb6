"""Chat templates are programs of strangers: what they may not do, and how much of it."""

from __future__ import annotations

import time

import pytest

from tunesmith.data.examples import Message
from tunesmith.data.template import PLAIN_TEMPLATE, ChatTemplate, Refusal
from tunesmith.errors import ModelError

CONVERSATION = (Message("user", "hi"), Message("assistant", "yes ☃"))


def render(source: str, **special: str) -> str | Refusal:
    with ChatTemplate(source, special) as template:
        return template.render([CONVERSATION])[0]


def test_plain_template():
    assert render(PLAIN_TEMPLATE, eos_token="</s>") == "### User:\nhi\n\n### Assistant:\nyes ☃</s>\n\n"


def test_plain_template_with_a_system_turn_and_generation_prompt():
    with ChatTemplate(PLAIN_TEMPLATE, {"eos_token": "</s>"}) as template:
        text = template.render([(Message("system", "Be."), CONVERSATION[0])], add_generation_prompt=True)[0]
    assert text == "Be.\n\n### User:\nhi\n\n### Assistant:\n"


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ self.__init__.__globals__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({}) }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ 1 / 0 }}",
        "{{ messages | tojson(indent='x' * 3) | int / 0 }}",
        "{% for a in range(999999) %}{% endfor %}",
        "{% for a in range(99999) %}{{ 'A' * 10000 }}{% endfor %}",
    ],
)
def test_forbidden_is_refused(source):
    assert isinstance(render(source), Refusal)


@pytest.mark.parametrize("source", ["{{ raise_exception.__globals__ }}", "{{ '{0.__class__}'.format(1) }}", "{{ tojson }}"])
def test_unsafe_attributes_are_nothing(source):
    assert render(source) == ""


@pytest.mark.parametrize(
    "source", ["{% if %}", "{{ messages | attr('x') }}", "{{ '%s' | format(1) }}", "{{ 1 | nothing }}", "{{"]
)
def test_invalid_source(source):
    with pytest.raises(ModelError, match="not valid"):
        render(source)


def test_too_long_a_source():
    with pytest.raises(ModelError, match="65,537 characters"):
        ChatTemplate("a" * 65537, {})


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "2 s of processor time"),
        ("{{ 'A' * 2000000000 }}", "more than 256 MB"),
        ("{% set ns = namespace(x='A') %}{% for a in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}", "more than 256 MB"),
        ("{{ messages[0]['content'] * 2000000000 }}", "more than 256 MB"),
    ],
)
def test_bombs_are_stopped(source, reason):
    start = time.process_time()
    with pytest.raises(ModelError, match=reason):
        render(source)
    assert time.process_time() - start < 1.0, "the work must not be done here"


def test_template_goes_on_after_a_refusal():
    source = "{% if messages[0]['content'] == 'no' %}{{ raise_exception('because') }}{% endif %}{{ messages[0]['content'] }}"
    with ChatTemplate(source, {}) as template:
        rendered = template.render([(Message("user", text),) for text in ("a", "no", "b")])
    assert rendered == ["a", Refusal("because"), "b"]


def test_many_and_long_conversations_come_back_in_order():
    with ChatTemplate("{{ messages[0]['content'] }}", {}) as template:
        texts = [str(i) for i in range(500)] + ["ä" * 2_000_000] + ["end"]
        assert template.render([(Message("user", text),) for text in texts]) == texts


def test_dates_do_not_change_from_day_to_day():
    assert render("{{ strftime_now('%Y-%m-%d') }}") == "2024-07-26"
    assert render("{% if strftime_now is defined %}today{% else %}then{% endif %}") == "then"


def test_what_transformers_offers_is_there():
    source = "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m | tojson }}{% endfor %}{{ bos_token }}"
    assert render(source, bos_token="<s>") == '{"role": "user", "content": "hi"}<s>'
    assert render("{% generation %}{{ messages[1].content }}{% endgeneration %}") == "yes ☃"
    assert render("{% if tools %}x{% endif %}{% if not documents %}y{% endif %}") == "y"
