"""Reviews: from a pull request to a plan comment, and from an approval to an apply.

`docs/pull-requests.md` says how it is used; `reviewer` is where to begin reading.
"""
