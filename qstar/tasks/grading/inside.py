"""What runs in a sandbox's process: locks itself in, runs the program, says what `solution()` returned. A script.

The order comes through standard input, marshalled. Answers leave through the file whose number is the argument, a line
each: the order's token, a tag, a text in hexadecimal. First "in_force" with the layers, then the outcome; where layers
are lacking that the order asks for, "refused" and no line of the program is run. Only exact
int, float, str, Fraction and Decimal leave, as text: nothing of the program's own making is compared, printed or
unpickled outside.
"""

import marshal  # and no more modules than needed: they are most of the time that a program takes
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import confine  # loaded by path: this process never sees the package

sys.path.pop(0)
LONGEST = 2000  # characters of a value


def plain_kinds():
    """Kinds of value that leave, each with what spells it; the last two where the program has imported them."""
    kinds = {int: ("int", int.__repr__), float: ("float", float.__repr__), str: ("str", str.__str__)}
    for module, name in (("fractions", "Fraction"), ("decimal", "Decimal")):
        if module in sys.modules:
            kind = getattr(sys.modules[module], name)
            kinds[kind] = (name, kind.__str__)
    return kinds


def described(value):
    """Tag and text of a returned value: its kind as Python spells it, or "error" and why it has none."""
    kind, kinds = type(value), plain_kinds()
    if kind not in kinds:
        return "error", f"solution() returned a {kind.__name__[:100]}, no plain number or text"
    if kind is int and value.bit_length() > 3 * LONGEST:
        return "error", "solution() returned an integer too long to print"
    name, spell = kinds[kind]
    text = spell(value)
    if len(text) > LONGEST:
        return "error", f"solution() returned {len(text)} characters, at most {LONGEST} are read"
    return name, text


def outcome(program):
    namespace = {"__name__": "program", "__builtins__": __builtins__}
    try:
        exec(compile(program, "program", "exec"), namespace)
        if "solution" not in namespace:
            return "error", "the program defines no solution()"
        return described(namespace["solution"]())
    except BaseException as error:  # whatever a program raises, SystemExit too, is its outcome
        return "error", f"{type(error).__name__}: {error}"[:LONGEST]


def forget():
    """Drop what led below Python. The kernel holds where it does; where nothing else is available, this adds a step."""
    for name in ("confine", "ctypes", "_ctypes", "ctypes._endian"):
        sys.modules.pop(name, None)
    confine.__dict__.clear()
    del globals()["confine"]


def main():
    results = int(sys.argv[1])
    order = marshal.loads(sys.stdin.buffer.read())
    send, token = os.write, order["token"]
    nothing, end = os.pipe()  # instead of the order: an input at its end
    os.close(end)
    os.dup2(nothing, 0)
    os.close(nothing)

    def say(tag, text):
        send(results, f"{token} {tag} {text.encode('utf-8', 'replace').hex()}\n".encode())

    os.environ.clear()
    held = confine.confine(
        order["layers"],
        folder=order["folder"],
        readable=order["readable"],
        limits=order["limits"],
        calls=order["calls"],
        forbidden=lambda event: say("forbidden", event),
    )
    refused = order["strong"] and confine.lacking(held)
    say("in_force", " ".join(held))
    if refused:
        say("refused", " ".join("|".join(group) for group in refused))
        os._exit(0)
    forget()
    say(*outcome(order["program"]))
    os._exit(0)


if __name__ == "__main__":
    main()
