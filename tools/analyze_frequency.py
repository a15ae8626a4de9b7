"""Show the frequencies of a dataset and of a network's stages, and search sizes by them."""

from paca_mm.cli import front

main = front('frequency')

if __name__ == '__main__':
    main()
