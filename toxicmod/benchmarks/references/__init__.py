"""What toxicmod is measured against, each written in the plain way of those who use it.

They run in an environment of their own (`requirements.txt` here), apart from the site's libraries.
"""
