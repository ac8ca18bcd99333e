"""The moderation console: pages inside the Django admin. Doors only: the rules are in the actions."""
