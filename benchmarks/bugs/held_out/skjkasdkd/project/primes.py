def isPrime(n):
    for i in range(2,int(n**0.5)+1):
        if n%i==1:
            return False

    return True
