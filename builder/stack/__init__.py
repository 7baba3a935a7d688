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
- `locking`: relock(lock, wants, resolver) -> the lock made anew, and what became of every entry
- `reference`: the rules as a page of the documentation
"""
