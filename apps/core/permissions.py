"""The actor of schedules, installation steps and commands, for actions that no user starts."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SystemActor:
    """A schedule, an installation step or an operator at the command line, which has every permission.

    Attributes:
        name: is stored with what the actor does.
    """

    name: str

    def has_perm(self, permission: str) -> bool:
        """Return True, as for a superuser."""
        return True

    def get_username(self) -> str:
        """Return the name, as for a user."""
        return self.name


SYSTEM = SystemActor("system")
