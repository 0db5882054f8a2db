"""STAGE 3: every rollback of the release is proved on the shadow, under five kinds of trouble."""
