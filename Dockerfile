# Two images: `database` for target and shadow, `airflow` for every Airflow process and the command line.
#   docker build --target database -t comporta-database .
#   docker build --target airflow  -t comporta-airflow  .

FROM postgres:15.18-bookworm AS database
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        postgresql-15-cron \
        postgresql-15-postgis-3 \
        postgresql-15-postgis-3-scripts \
    && rm -rf /var/lib/apt/lists/*

FROM apache/airflow:3.3.2-python3.11 AS airflow
USER root
# pg_dump and pg_restore copy the target to the shadow; they must not be older than the servers.
RUN apt-get update \
    && apt-get install -y --no-install-recommends postgresql-client-15 \
    && rm -rf /var/lib/apt/lists/*
USER airflow
COPY requirements.txt constraints.txt /opt/airflow/
RUN pip install --no-cache-dir -r /opt/airflow/requirements.txt -c /opt/airflow/constraints.txt
COPY --chown=airflow:root pyproject.toml /opt/airflow/
COPY --chown=airflow:root plugins /opt/airflow/plugins
RUN pip install --no-cache-dir --no-deps -e /opt/airflow
COPY --chown=airflow:root sql /opt/airflow/sql
COPY --chown=airflow:root config /opt/airflow/config
COPY --chown=airflow:root dags /opt/airflow/dags
ENV COMPORTA_HOME=/opt/airflow
