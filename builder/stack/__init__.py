"""Decide which versions work together. Pure, except for reading the catalog.

- `versions`: parse(text) -> Version, totally ordered; compare(left, operator, right) for conditions of rules
- `vocabulary`: Fact, Vocabulary, Value, ABSENT; read_value(fact, raw)
- `rules`: Clause, Rule.fires(facts) -> True, False or None (unknown), Setting, Finding
- `knowledge`: Knowledge (the catalog, vocabulary, rules, releases) and its parts
- `loading`: load(root, catalog) -> Knowledge, or one error that lists every problem
- `derive`: derive(stated, knowledge) -> the stated facts and all facts that follow from them
- `checking`: check(knowledge, stated) -> Result: findings and undecided rules
- `differences`: the changes between two stacks, riskiest first
- `solving.ask`: requests of the user and assumptions
- `solving.needs`, `.problem`, `.search`: a machine's components as variables and constraints, and the search
- `solving.solve`: the newest set that fits, with reasons, or a minimal set of contradicting requests
- `solving.nearest`: the smallest change that makes a rule hold
- `judging`: the verdict of the rules on a stack in an image: settings, warnings, errors
- `locking`: relock(lock, wants, resolver) -> the updated lock, and the outcome for every entry
- `reference`: the documentation page that lists the rules
"""
