"""Train, evaluate and draw a small model on the embedded dataset: minutes, and no download."""

from paca_mm.cli import front

main = front('demo')

if __name__ == '__main__':
    main()
