from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from attacks.obscure import (
    GREY,
    KINDS,
    Blur,
    Obscuring,
    Pixelate,
    Region,
    Solid,
    head_region,
    obscure,
    parse_obscuring,
    plan_regions,
    region_mask,
    whole_frame,
)
from victims.base import Image
from victims.track import CoverBox
from weights.errors import UsageError


def noise(height: int, width: int, seed: int = 0) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def ramp(height: int, width: int) -> Image:
    plane = np.arange(height * width, dtype=np.int64).reshape(height, width) % 256
    return np.stack([plane, 255 - plane, plane // 2], axis=-1).astype(np.uint8)


class TestParsing:
    @pytest.mark.parametrize(
        ("spec", "expected"),
        [
            ("pixelate_5", Pixelate(5)),
            ("PIXELATE_5", Pixelate(5)),
            (" Pixelate_64 ", Pixelate(64)),
            ("blur_20", Blur(20)),
            ("Blur_100", Blur(100)),
            ("Solid", Solid()),
        ],
    )
    def test_valid(self, spec: str, expected: Obscuring) -> None:
        parsed = parse_obscuring(spec)
        assert parsed == expected
        assert parse_obscuring(str(parsed)) == expected

    @pytest.mark.parametrize(
        "spec", ["", "pixelate", "pixelate_", "pixelate_0", "pixelate_65", "pixelate_-3", "pixelate_5.5", "blur_0",
                 "blur_101", "solid_3", "mosaic_5", "pixelate_5 5", "pixelate_99999", "pixelate_٥"],
    )  # fmt: skip
    def test_invalid_names_the_valid_forms(self, spec: str) -> None:
        with pytest.raises(UsageError, match=r"pixelate_N .* blur_N .* solid"):
            parse_obscuring(spec)

    def test_warns_above_eight_blocks_only(self) -> None:
        assert [n for n in range(1, 65) if Pixelate(n).warning()] == list(range(9, 65))
        assert "McPherson" in (Pixelate(30).warning() or "")

    def test_blur_limit_is_where_eight_blocks_end(self) -> None:
        # Four cycles a head, full amplitude, after a Gaussian of sigma: under half a step of 8 bits or not.
        def left(percent: int) -> float:
            return 128 * math.exp(-2 * math.pi**2 * (percent / 100) ** 2 * 4**2)

        assert [n for n in range(1, 101) if Blur(n).warning()] == [n for n in range(1, 101) if left(n) > 0.5]
        assert Solid().warning() is None


def test_every_kind_hides() -> None:
    """At a strength that it does not warn of, nothing of a picture's detail is left: also of a kind that is new."""
    strong = {"Pixelate": Pixelate(5), "Blur": Blur(20), "Solid": Solid()}
    assert set(strong) == {kind.__name__ for kind in KINDS}, "give a new kind an example here"
    image = noise(120, 120)
    for mask in strong.values():
        assert parse_obscuring(str(mask)) == mask
        assert mask.warning() is None
        hidden = obscure(image, [Region((20, 20, 100, 100), mask.cell(80), (20, 20))], mask)[20:100, 20:100]
        own = image[20:100, 20:100].astype(float)
        assert abs(np.corrcoef(own.ravel(), hidden.ravel() + np.linspace(0, 1e-9, hidden.size))[0, 1]) < 0.1


class TestPixelate:
    def test_block_means_by_hand(self) -> None:
        image = np.zeros((4, 4, 3), dtype=np.uint8)
        image[:2, :2, 0] = [[10, 20], [30, 41]]  # 101 / 4 = 25.25
        image[:2, 2:, 0] = [[1, 2], [1, 2]]  # 1.5, rounded half up
        image[2:, :2, 1] = 200
        hidden = obscure(image, [Region((0, 0, 4, 4), 2)], Pixelate(2))
        assert hidden[:2, :2, 0].tolist() == [[25, 25], [25, 25]]
        assert hidden[:2, 2:, 0].tolist() == [[2, 2], [2, 2]]
        assert hidden[2:, :2, 1].tolist() == [[200, 200], [200, 200]]
        assert hidden[2:, 2:].max() == 0

    def test_a_cell_cut_by_the_border_is_the_mean_of_what_is_inside(self) -> None:
        image = ramp(5, 7)
        # grid of 4 px from (-2, -1): columns 0-1, 2-5, 6; rows 0-2, 3-4
        hidden = obscure(image, [Region((0, 0, 7, 5), 4, (-2, -1))], Pixelate(2))
        for rows in (slice(0, 3), slice(3, 5)):
            for columns in (slice(0, 2), slice(2, 6), slice(6, 7)):
                for channel in range(3):
                    cell = image[rows, columns, channel].astype(float)
                    assert set(hidden[rows, columns, channel].ravel()) == {math.floor(cell.mean() + 0.5)}

    @settings(max_examples=60, deadline=None)
    @given(st.data())
    def test_covered_pixels_are_constant_by_cell_and_others_untouched(self, data: st.DataObject) -> None:
        height, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
        x1, y1 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
        x2, y2 = data.draw(st.integers(x1 + 1, width)), data.draw(st.integers(y1 + 1, height))
        cell = data.draw(st.integers(2, 50))
        origin = (data.draw(st.integers(-60, 60)), data.draw(st.integers(-60, 60)))
        image = noise(height, width, data.draw(st.integers(0, 9)))
        before = image.copy()
        region = Region((x1, y1, x2, y2), cell, origin)
        hidden = obscure(image, [region], Pixelate(5))
        assert (image == before).all()
        mask = region_mask([region], height, width)
        assert mask.sum() == (x2 - x1) * (y2 - y1)
        assert (hidden[~mask] == image[~mask]).all()
        ys, xs = np.nonzero(mask)
        cells = np.stack([(xs - origin[0]) // cell, (ys - origin[1]) // cell], axis=1)
        for key in np.unique(cells, axis=0):
            members = (cells == key).all(axis=1)
            inside = hidden[ys[members], xs[members]]
            assert (inside == inside[0]).all()
            mean = image[ys[members], xs[members]].astype(float).mean(axis=0)
            assert np.abs(inside[0] - mean).max() <= 0.5 + 1e-9

    def test_where_regions_overlap_the_coarser_wins(self) -> None:
        image = noise(60, 60)
        fine, coarse = Region((0, 0, 40, 40), 4), Region((20, 20, 60, 60), 20)
        both = obscure(image, [coarse, fine], Pixelate(5))
        assert (both == obscure(image, [fine, coarse], Pixelate(5))).all()
        assert (both[20:, 20:] == obscure(image, [coarse], Pixelate(5))[20:, 20:]).all()
        only_fine = region_mask([fine], 60, 60) & ~region_mask([coarse], 60, 60)
        assert (both[only_fine] == obscure(image, [fine], Pixelate(5))[only_fine]).all()


class TestBlurAndSolid:
    def test_blur_is_a_gaussian_of_the_region_alone(self) -> None:
        image = noise(90, 110)
        region = Region((10, 15, 90, 85), 8)
        hidden = obscure(image, [region], Blur(10))
        patch = image[15:85, 10:90].astype(np.float64)
        expected = gaussian_filter(patch, sigma=(8, 8, 0), mode="reflect", truncate=6.0)
        assert np.abs(hidden[15:85, 10:90] - expected).max() <= 0.51 + 0.05
        mask = region_mask([region], 90, 110)
        assert (hidden[~mask] == image[~mask]).all()

    def test_what_lies_outside_does_not_reach_in(self) -> None:
        image = noise(80, 80)
        other = image.copy()
        region = Region((20, 20, 60, 60), 9)
        other[~region_mask([region], 80, 80)] = 255
        inside = (slice(20, 60), slice(20, 60))
        for obscuring in (Blur(20), Pixelate(5), Solid()):
            assert (obscure(image, [region], obscuring)[inside] == obscure(other, [region], obscuring)[inside]).all()

    def test_solid_is_one_grey(self) -> None:
        image = noise(30, 31)
        hidden = obscure(image, [Region((3, 4, 20, 25), 1)], Solid())
        assert (hidden[4:25, 3:20] == GREY).all()
        hidden[4:25, 3:20] = image[4:25, 3:20]
        assert (hidden == image).all()

    def test_nothing_to_hide(self) -> None:
        image = noise(7, 9)
        hidden = obscure(image, [], Pixelate(5))
        assert (hidden == image).all()
        assert hidden is not image


class TestHeadRegion:
    def test_holds_the_box_with_room_for_hair_ears_and_chin(self) -> None:
        x1, y1, x2, y2 = head_region(np.array([100.0, 200.0, 180.0, 300.0]))  # 80 wide, 100 high
        assert (x1, x2) == pytest.approx((100 - 57, 180 + 57))
        assert (y1, y2) == pytest.approx((200 - 68, 300 + 35))

    corner = st.floats(-200, 2000, allow_nan=False)

    @given(corner, corner, st.floats(0, 800), st.floats(0, 800), *[st.floats(0, 300) for _ in range(4)])
    def test_is_monotone(self, x: float, y: float, w: float, h: float, a: float, b: float, c: float, d: float) -> None:
        inner = head_region(np.array([x, y, x + w, y + h]))
        outer = head_region(np.array([x - a, y - b, x + w + c, y + h + d]))
        assert (outer[:2] <= inner[:2] + 1e-6).all()
        assert (outer[2:] >= inner[2:] - 1e-6).all()


def cover(box: tuple[float, ...], largest: tuple[float, float] | None = None, track: int = 0) -> CoverBox:
    return CoverBox(track, np.array(box, dtype=float), largest or (box[2] - box[0], box[3] - box[1]))


class TestPlanning:
    def test_grid_stays_put_along_a_track(self) -> None:
        covers = [[cover((100.3 + 3.7 * i, 120.1, 150.3 + 3.7 * i, 180.1), (50.0, 60.0))] for i in range(20)]
        regions = [frame[0] for frame in plan_regions(covers, Pixelate(5), 480, 640)]
        assert len({region.cell for region in regions}) == 1
        assert len({region.origin for region in regions}) == 1
        cell, (ox, oy) = regions[0].cell, regions[0].origin
        for region in regions:
            assert (region.rect[0] - ox) % cell == (region.rect[2] - ox) % cell == 0
            assert (region.rect[1] - oy) % cell == (region.rect[3] - oy) % cell == 0

    @settings(max_examples=80, deadline=None)
    @given(
        st.floats(-100, 700), st.floats(-100, 500), st.floats(2, 400), st.floats(2, 400),
        st.sampled_from([Pixelate(1), Pixelate(5), Pixelate(8), Blur(20), Solid()]),
    )  # fmt: skip
    def test_the_whole_head_is_in_it_and_blocks_are_large_enough(
        self, x: float, y: float, w: float, h: float, obscuring: Obscuring
    ) -> None:
        box = (x, y, x + w, y + h)
        planned = plan_regions([[cover(box)]], obscuring, 480, 640)[0]
        x1, y1, x2, y2 = head_region(np.array(box))
        mask = region_mask(planned, 480, 640)
        ys, xs = np.mgrid[:480, :640]
        head = (xs + 1 > x1) & (xs < x2) & (ys + 1 > y1) & (ys < y2)  # every pixel the head touches
        assert mask[head].all()
        if planned and isinstance(obscuring, Pixelate):
            assert planned[0].cell >= min(x2 - x1, y2 - y1) / obscuring.blocks

    def test_outside_the_frame_there_is_nothing_to_hide(self) -> None:
        assert plan_regions([[cover((-500, -500, -400, -400))]], Pixelate(5), 100, 100) == [()]

    def test_a_hand_drawn_region_is_not_enlarged_to_a_head(self) -> None:
        drawn = CoverBox(-1, np.array([10.0, 20.0, 50.0, 70.0]), (40.0, 50.0), exact=True)
        (region,) = plan_regions([[drawn]], Pixelate(5), 200, 200)[0]
        assert region == Region((10, 20, 50, 76), 8, (10, 20))

    def test_whole_frame(self) -> None:
        region = whole_frame(90, 121, Pixelate(5))
        assert region_mask([region], 90, 121).all()
        assert region.cell == 18

    def test_one_pixel(self) -> None:
        image = noise(1, 1)
        planned = plan_regions([[cover((0, 0, 1, 1))]], Pixelate(5), 1, 1)[0]
        assert region_mask(planned, 1, 1).all()
        assert obscure(image, planned, Solid())[0, 0].tolist() == [GREY] * 3
