def parse_paren_group(s):
    depth = 0
    max_depth = 0
    for c in s:
        if c == '(':
            depth += 1
            max_depth = max(depth, max_depth)
        else:
            depth -= 1

    return max_depth
