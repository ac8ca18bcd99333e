"""The moderation console: pages inside the Django admin. Views parse requests and call actions."""
