"""Forges: Gitea and Forgejo, GitHub, GitLab behind one small protocol (I/O).

`open_forge` gives the one that an environment names. docs/pull-requests.md says
which permissions its token needs.
"""

from reconciler.forge.base import (
    Approval,
    Forge,
    Note,
    Proposal,
    PullRequest,
    State,
)
from reconciler.forge.connect import open_forge, visit

__all__ = [
    "Approval",
    "Forge",
    "Note",
    "Proposal",
    "PullRequest",
    "State",
    "open_forge",
    "visit",
]
