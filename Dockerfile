# The dashboard by itself: the small install, without torch or any model. Railway.md says how.
FROM python:3.13-slim AS build
RUN pip install --no-cache-dir --quiet "uv>=0.9"
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never
WORKDIR /app
COPY pyproject.toml uv.lock ./
RUN uv sync --locked --no-default-groups --no-install-project

FROM python:3.13-slim
ENV PATH=/app/.venv/bin:$PATH PORT=8080 PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1
RUN useradd --create-home --uid 10001 visitor
WORKDIR /app
COPY --from=build /app/.venv .venv
COPY probe_analysis.py ./
COPY helpers helpers
COPY outputs outputs
RUN if grep -rlI "^version https://git-lfs" outputs; then \
      echo "These files are Git LFS pointers: run 'git lfs pull' before building." >&2; exit 1; \
    fi; python -m compileall -q helpers
USER visitor
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["python", "-c", \
  "import os, urllib.request as u; u.urlopen('http://127.0.0.1:%s/health' % os.environ['PORT'], timeout=4)"]
CMD ["python", "-m", "helpers.app.serving", "--host", "0.0.0.0"]
