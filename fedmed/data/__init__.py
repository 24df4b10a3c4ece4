"""A site's data as the learner sees it: schemas, views, splits and cohorts."""
