"""Load time and size of the public pages in a real browser."""

from dataclasses import astuple, dataclass, fields

from playwright.sync_api import Browser

PATHS = ("/", "/model", "/nothing")
VISITS = 5

_MEASURE = """async () => {
  const [visit] = performance.getEntriesByType("navigation");
  const paint = performance.getEntriesByName("first-contentful-paint")[0];
  const seen = (type) => new Promise((resolve) => {
    new PerformanceObserver((list) => resolve(list.getEntries())).observe({ type, buffered: true });
    setTimeout(resolve, 200, []);
  });
  const largest = await seen("largest-contentful-paint");
  const shifts = await seen("layout-shift");
  return [
    visit.responseStart - visit.requestStart,
    paint ? paint.startTime : 0,
    largest.length ? largest.at(-1).startTime : 0,
    shifts.reduce((sum, shift) => sum + shift.value, 0),
    document.getElementsByTagName("*").length,
  ];
}"""


@dataclass(frozen=True)
class PageMetrics:
    """Metrics of a page on visits with an empty cache: medians of five visits, times in milliseconds."""

    page: str
    ttfb_ms: float
    first_paint_ms: float
    largest_paint_ms: float
    layout_shift: float
    elements: int
    requests: int
    kilobytes: float


def measure(browser: Browser, url: str, path: str) -> PageMetrics:
    """Visit a page of a running site several times, each time with an empty cache."""
    visits = [_visit(browser, url, path) for _ in range(VISITS)]
    medians = [sorted(measurements)[VISITS // 2] for measurements in zip(*visits, strict=True)]
    ttfb, first, largest, shift, elements, requests, size = medians
    return PageMetrics(path, ttfb, first, largest, shift, int(elements), int(requests), size / 1000)


def _visit(browser: Browser, url: str, path: str) -> tuple[float, ...]:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    # The transferred bytes, headers and compressed bodies, as the browser's network layer counts them.
    sizes: list[float] = []
    network = context.new_cdp_session(page)
    network.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
    network.send("Network.enable")
    page.goto(url + path, wait_until="networkidle")
    measurements = page.evaluate(_MEASURE)
    context.close()
    return (*measurements, len(sizes), sum(sizes))


def table(browser: Browser, url: str) -> str:
    """Return the metrics of the public pages as a table."""
    names = [field.name.replace("_", " ") for field in fields(PageMetrics)]
    rows = [
        [
            value if isinstance(value, str) else f"{value:.4g}"
            for value in astuple(measure(browser, url, path))
        ]
        for path in PATHS
    ]
    return "\n".join("".join(f"{cell:>18}" for cell in row) for row in [names, *rows])
