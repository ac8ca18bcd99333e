#!/bin/sh
# Installs what Ansible needs: the agent of Systems Manager, and Python. Hosts can reach only HTTPS.
set -eu
find /etc/apt -type f -exec sed -i 's,http://,https://,g' {} +
apt-get update
apt-get install --yes --no-install-recommends ca-certificates curl python3
agent=$(mktemp --suffix=.deb)
curl --fail --silent --show-error --location --retry 5 --output "$agent" \
    "https://s3.amazonaws.com/ec2-downloads-linux/SSMAgent/latest/debian_$(dpkg --print-architecture)/amazon-ssm-agent.deb"
apt-get install --yes "$agent"
rm "$agent"
systemctl enable --now amazon-ssm-agent
