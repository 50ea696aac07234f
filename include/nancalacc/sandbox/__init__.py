"""Local stand-ins for DingTalk and WPS, for the demo and the tests."""
