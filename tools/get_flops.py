"""Count the parameters and multiply-accumulates of a config's model, module by module."""

from paca_mm.cli import front

main = front('flops')

if __name__ == '__main__':
    main()
