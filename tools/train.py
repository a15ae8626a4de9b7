"""Train a detector, a segmentor or a classifier, with mmdetection's familiar options."""

from paca_mm.cli import front

main = front('train')

if __name__ == '__main__':
    main()
