"""A drop-in for OpenAI's moderation API: same path, requests, responses and errors."""
