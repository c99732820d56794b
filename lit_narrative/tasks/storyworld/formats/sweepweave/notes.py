"""Issues noted while a file is read: bounded in number, each kind counted."""

from collections import Counter

from lit_narrative.tasks.storyworld.issues import Issue, Severity, json_path

Path = tuple[str | int, ...]
MOST_OF_A_KIND = 10
"""Issues of one kind that are listed; the last of them says how many more there are."""


class Notes:
    """What is odd in a file, kind by kind in the order of the first of each."""

    def __init__(self) -> None:
        self._issues: dict[str, list[Issue]] = {}
        self._counts: Counter[str] = Counter()

    def add(self, kind: str, path: Path, message: str, severity: Severity = "error", repair: str = "") -> None:
        """Note an issue; ``kind`` names what all like it have in common."""
        self._counts[kind] += 1
        if self._counts[kind] <= MOST_OF_A_KIND:
            self._issues.setdefault(kind, []).append(Issue(json_path(path), message, severity, repair))

    def issues(self) -> tuple[Issue, ...]:
        """The issues, errors first."""
        listed = []
        for kind, issues in self._issues.items():
            more = self._counts[kind] - len(issues)
            if more:
                last = issues[-1]
                message = f"{last.message} (and {more} more of this kind)"
                issues = [*issues[:-1], Issue(last.path, message, last.severity, last.repair)]
            listed += issues
        return tuple(sorted(listed, key=lambda issue: issue.severity))  # "error" sorts before "warning"
