"""Kills a saga's processes at every boundary and checks how the system ends; see docs/faultkit.md."""
