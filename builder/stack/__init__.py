"""Decides which versions work together. Pure, except for reading the catalog.

- `versions`: parse(text) -> Version, totally ordered; compare(left, operator, right) as a condition means it
- `vocabulary`: Fact, Vocabulary, Value, ABSENT; read_value(fact, raw)
- `rules`: Clause, Rule.fires(facts) -> True, False or None (unknown), Setting, Finding
- `knowledge`: Knowledge (the catalog, vocabulary, rules, releases) and the nouns in it
- `loading`: load(root, catalog) -> Knowledge, with every problem reported at once
- `derive`: derive(stated, knowledge) -> the stated facts and all that follow from them
- `checking`: check(knowledge, stated) -> Result: findings and undecided rules
- `differences`: the changes between two stacks, riskiest first
- `solving.ask`: requests of the user and assumptions
- `solving.needs`, `.problem`, `.search`: a machine's components as variables and constraints, and the search
- `solving.solve`: the newest set that fits, with reasons, or a minimal set of contradicting requests
- `solving.nearest`: the smallest change that makes a rule hold
- `judging`: the verdict of the rules on a plan
- `locking`: relock(lock, wants, resolver) -> the lock made anew, and what became of every entry
- `reference`: the rules as a page of the documentation
"""
