"""Messages by their facts: key, value, rule, remedy. stages/test_golden.py has the few that are compared whole."""


def says(message: object, *facts: object) -> None:
    """Assert that `message` has all `facts`, in this order."""
    text = str(message)
    end = 0
    for fact in map(str, facts):
        place = text.find(fact, end)
        assert place >= 0, f"{fact!r} is not in its place in: {text}"
        end = place + len(fact)
