"""The report page: one structure, two texts, nothing let through unescaped."""

from html.parser import HTMLParser
import math
import re

import pytest

from saliency_i2ploc_ros.evaluation.page import (
    Column,
    escape_markdown,
    Interval,
    NOT_SHOWN,
    Page,
    SHOWN,
)

HOSTILE = '<script>alert("x")</script> | a_b *c* & `x <y> | z`'
VOID = {'meta', 'img', 'source', 'line', 'circle', 'br'}


class Reader(HTMLParser):
    """Collects tags, attributes and text, and checks that tags close in order."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ''

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_data(self, data):
        self.text += data


def draw(figure):
    figure.add_subplot().plot([0, 1], [0, 1])


@pytest.fixture(scope='module')
def page():
    page = Page(HOSTILE, HOSTILE)
    page.section(HOSTILE, HOSTILE)
    page.listed([HOSTILE])
    page.findings([(SHOWN, HOSTILE), (NOT_SHOWN, 'plain')])
    page.table([Column('name'), Column(HOSTILE, 1, 100.0, signed=True, null=0.0), Column('n', 0)],
               [[HOSTILE, Interval(-0.032, -0.06, -0.004), 3.0],
                ['open', Interval(0.01, -0.02, 0.04), math.nan]], HOSTILE)
    page.picture('curve', draw, (2.0, 1.0), HOSTILE, HOSTILE)
    return page


def read(text):
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def test_html_is_well_formed_and_lets_no_text_become_markup(page):
    reader = read(page.html())
    assert 'script' not in reader.tags
    assert reader.text.count('<script>alert("x")</script>') >= 7
    assert reader.text.count('x <y> | z') >= 7  # in code, its backticks gone
    assert '`' not in reader.text


def test_html_needs_nothing_but_itself(page):
    addresses = [value for name, value in read(page.html()).attributes
                 if name in ('src', 'srcset', 'href')]
    assert len(addresses) == 2 and len(set(addresses)) == 2  # light, and drawn again for dark
    assert all(value.startswith('data:image/png;base64,iVBORw0KGgo') for value in addresses)
    assert 'http' not in page.html() and 'url(' not in page.html() and '@import' not in page.html()


def test_bars_share_one_scale_and_tell_which_exclude_the_null(page):
    bars = re.findall(r'<svg class="bar (\w+)".*?x1="([\d.]+)".*?</svg>', page.html())
    assert [kind for kind, _ in bars] == ['clear', 'open']
    assert bars[0][1] == bars[1][1]  # the null line stands at the same place in both
    middles = [float(x) for x in re.findall(r'circle cx="([\d.]+)"', page.html())]
    assert middles[0] < float(bars[0][1]) < middles[1]


def test_numbers_are_scaled_signed_and_never_nan(page):
    text = read(page.html()).text
    assert '−3.2' in text and '[−6.0, −0.4]' in text and '+1.0' in text
    assert 'nan' not in text.lower()
    assert Column('', 1).text(Interval(0.5, math.nan, math.nan)) == '0.5'


def test_markdown_escapes_and_keeps_its_tables(page):
    text = page.markdown()
    tables = [line for line in text.splitlines() if line.startswith('|')]
    cells = [len(re.findall(r'(?<!\\)\|', line)) for line in tables]
    assert len(tables) == 4 and set(cells) == {4}
    assert '<script>' not in re.sub(r'\\.', '', text)
    assert escape_markdown('a_b|`c_d|e`') == 'a\\_b\\|`c_d\\|e`'
    assert '](curve.png)' in text


def test_what_is_written_is_whole(page, tmp_path):
    page.write(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['curve.png', 'report.html', 'report.md']
    assert (tmp_path / 'curve.png').read_bytes().startswith(b'\x89PNG')


@pytest.mark.parametrize(('low', 'high', 'excludes'), [
    (-2.0, -1.0, True), (1.0, 2.0, True), (-1.0, 1.0, False), (-1.0, 0.0, False),
    (math.nan, math.nan, False)])
def test_only_an_interval_on_one_side_excludes(low, high, excludes):
    assert Interval(0.0, low, high).excludes(0.0) == excludes
