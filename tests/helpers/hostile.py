"""Texts that users, files and attackers may give instead of a name or a value."""

from __future__ import annotations

import dataclasses

from bench.config.schema import SECTIONS

# instead of a name
_NAMES = r"""
.. . / a/../.. ../../x ..%2f..%2fx %2e%2e ..\..\x C:\x /etc/passwd ~ ~root/x ... ..a -rf $(touch§ran) `touch§ran` ;touch§ran
* ** CON é a§b x:y timm:.. timm:../x folder:.. folder:../x hub:../x hub:a/.. hub:a/../../x
"""
HOSTILE = [text.replace("§", " ") for text in _NAMES.split()]
HOSTILE += ["", "a\0b", "a\nb", "\ud800", "\u202e", "a" * 97, "a" * 5000]
HOSTILE += ["folder:" + "a" * 96, "hub:" + "a." * 48 + "/" + "b." * 48, "timm:" + "a" * 96, "folder:a" + "." * 95]

_LAUGHS = "{a: &a [x, x, x, x, x, x], b: &b [*a, *a, *a, *a, *a, *a], c: &c [*b, *b, *b, *b, *b, *b], d: [*c, *c, *c, *c]}"
# instead of a value, as YAML, between bars
_VALUES = r"""
null|~||true|no|0|1|2|3|7|16|64|-1|-0|0.5|1.0|-0.0|1e-3|1.0e-3|5e-4|1e400|1.0e+300|1.0e-300|.nan|.inf|-.inf|0x10|0o17|017|
1_000|12:30:45|0b1|0b_|1000000000|1000000000000000000000|2147483648|9223372036854775808|2020-01-01|2020-13-45|
2020-01-01 10:00:00|[]|{}|[[]]|[1]|[1, 2]|[0.5, 0.5, 0.5]|[null]|[a, b, c]|[0, 1]|[2, 0]|{a: 1}|{a: {b: 1}}|{? [a] : b}|
{[a]: 1}|{2020-01-01: 1}|{null: 1}|{1: 2}|{a: 1, a: 2}|!!python/object:os.system {}|
!!python/object/apply:os.system [echo ran > ran]|!!python/name:os.system|!x 1|!!binary aGk=|!!binary x|!!set {a, b}|
!!omap [a: 1]|!!pairs [a: 1]|!!timestamp x|!!bool x|!!int ""|!!float ""|!!int x|!!null x|!!str 1|!!seq x|!!map x|&x [*x]|
&x {a: *x}|*nowhere|&a 1|=|<<|{<<: {a: 1}}|{<<: 1}|{<<: &m {weight: 1.0}}|../../x|/etc/passwd|"C:\\x"|"a\0b"|"a\nb"|
"\ud800"|"\u2028"|été|模型|~/x|**|a/**b|"*"|./|a//b|a/../b|hub:a/b|timm:resnet18|folder:../x|[../x]|["a\0b"]|["**/x"]|[""]|["/"]|["."]|
http://localhost:1/x|CIFAR10|FakeData|utils|__name__|%s%n|{x}|a b|'|"|: |rand-m9-mstd0.5-inc1|rand-m99|rand-mx|rand-|
augmix-m3|original|v0|rand-m9-n99-w0|rand-n-1|autoaug
"""
YAML_VALUES = _VALUES.replace("\n", "").split("|")
YAML_VALUES += [_LAUGHS, "9" * 400, "9" * 5000, "-" + "9" * 30, "[" * 50 + "]" * 50, "[" * 3000, "{a: " * 400]
YAML_VALUES += ["x" * 300, "x" * 100_000]

_KEYS = [f"{section}.{f.name}" for section, cls in SECTIONS.items() for f in dataclasses.fields(cls)]


def sentence_problem(text: str, *names: str) -> str | None:
    """What is wrong with a message that should be one sentence and name a file, a recipe or a key; None: nothing."""
    if len(text.splitlines()) != 1:
        return "not one line"
    if len(text) > 1500:
        return "too long"
    if not text.isprintable():
        return "not printable"
    if not any(name in text for name in (*names, *_KEYS, "guidance.", "teacher.")):
        return "names neither file nor key"
    return None
