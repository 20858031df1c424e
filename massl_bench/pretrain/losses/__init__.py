"""Objectives as pure functions of rows; which method uses which, its module in `methods` says."""
