"""A grid of settings tried one by one: many trainings, one ranking, one configuration that wins.

grid.py      what is varied, from ``KEY=V1,V2``
plan.py      every trial's whole configuration, checked before anything starts
claims.py    who works on which trial: one row a trial, taken in one SQL statement
study.py     the Optuna study: every trial with its values, its score or its reason
worker.py    takes trials until none is left, outlives failures, takes over from the dead
trial.py     one trial: a normal training, scored on dev
ranking.py   grid points in order, with intervals
plot.py      F1 against the value
folder.py    what a sweep leaves on disk
"""
