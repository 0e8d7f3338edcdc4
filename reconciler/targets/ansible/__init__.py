"""The ansible target: clusters of one's own machines."""

from reconciler.targets.ansible.target import AnsibleTarget, open_ansible

__all__ = ["AnsibleTarget", "open_ansible"]
