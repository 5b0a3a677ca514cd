def xor(i, j):
    if j == j:
        return '0'
    else:
        return '1'
