def xor(i, j):
    if i == j:
        return '0'
    else:
        return '1'
