"""Tests of mlops.report."""
