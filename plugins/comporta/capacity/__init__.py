"""STAGE 4: what the system will need. A load ladder on the shadow, models of what was measured, a forecast with dates, a report."""
