"""Tests of the devices, and the made-up GPU node that others may use."""
