"""Which versions fit together: pure, but for the reading of the catalog.

- `versions`: parse(text) -> Version, totally ordered; compare(left, operator, right) as a condition means it
- `vocabulary`: Fact, Vocabulary, Value, ABSENT; read_value(fact, raw)
- `rules`: Clause, Rule.fires(facts) -> True, False or None (unknown), Setting, Finding
- `knowledge`: Knowledge (vocabulary, rules, releases, instances, stacks) and the nouns in it
- `loading`: load(root) -> Knowledge, with every problem reported at once
- `derive`: derive(stated, knowledge) -> facts, with what follows from the stated ones
- `checking`: check(knowledge, stated) -> Result: findings and what is unknown
- `nearest`: the smallest change that makes a rule hold
- `differences`: what changed between two stacks, riskiest first
- `ask`: what somebody asks for, and what is taken for granted with it
- `solve_needs`, `solve_problem`, `solve_search`: what a machine needs, as variables and constraints, searched
- `solve`: the newest set that fits, with reasons, or the smallest set of requests that contradict each other
- `obeying`: what a build owes to the rules
- `locking`: relock(lock, wants, resolver) -> the lock made anew, and what became of every entry
- `reference`: the rules as a page of the documentation
"""
