"""nancalacc keeps departments, users and memberships in WPS 365 the same as in DingTalk."""

__version__ = "0.1.0"
