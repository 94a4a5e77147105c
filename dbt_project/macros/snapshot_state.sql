{#- Current state made from full snapshots: one row per key that a snapshot ever held.

    A model only calls snapshot_state(), for a `LandingFiles` source with `delivery: snapshot`:

        {{ snapshot_state(source('bronze', 'shop__stores'), contract='shop.Stores', keys=['store_id']) }}

    The newest published day is the state. A key that is missing from it becomes a tombstone: `_deleted`, all columns
    but the key null. A withheld day is not used; a late or corrected older day changes no row. If a snapshot holds a
    key twice, the last row of the file counts. A row that equals the stored one is not written again, so
    `_changed_date` (the day of the snapshot that last changed the row; after a rebuild, of the newest snapshot) tells
    downstream models what changed.

    Cost follows the snapshot: a run reads the newest day and the new days of bronze, and the stored state once.
    pipeline_assets/dbt_plugin/snapshots.py selects these rows.
-#}
{% macro snapshot_state(source, contract, keys) -%}
{{- config(
    contract={'enforced': false},
    meta={
        'strategy': 'merge',
        'unique_key': keys,
        'sequence': '_changed_date',
        'date_column': '_changed_date',
        'optional': true,
    }
) -}}
{%- set read = read_snapshot(source, contract, keys) -%}
{%- if read -%}
{%- set key = read['keys'] | join(', ') -%}
{%- set columns = (read['keys'] + read['columns']) | join(', ') -%}

with rows_of_snapshots as not materialized (

    select * from {{ read['rows'] }}

),

newest as (

    select max(_partition_date) as day from rows_of_snapshots

),

last_rows as (

    select {{ columns }}, _partition_date < (select day from newest) as _deleted
    from rows_of_snapshots
    qualify
        row_number() over (
            partition by {{ key }}
            order by _partition_date desc, _source.file desc, _source.line desc
        ) = 1

),

{%- if read['stored'] %}

stored as (

    select * from {{ read['stored'] }}

),

changed as (

    select last_rows.*
    from last_rows
    left join stored using ({{ key }})
    where
        stored._deleted is distinct from last_rows._deleted
        {%- for column in read['columns'] %}
        or (not last_rows._deleted and last_rows.{{ column }} is distinct from stored.{{ column }})
        {%- endfor %}

),

vanished as (

    select *
    from stored
    anti join last_rows using ({{ key }})
    where not _deleted and (select day from newest) is not null

),

{%- endif %}

final as (

    select
        {{ key }},
        {%- for column in read['columns'] %}
        case when not _deleted then {{ column }} end as {{ column }},
        {%- endfor %}
        _deleted,
        (select day from newest) as _changed_date,
    from {{ 'changed' if read['stored'] else 'last_rows' }}

    {%- if read['stored'] %}

    union all

    select
        {{ key }},
        {%- for column in read['columns'] %}
        null as {{ column }},
        {%- endfor %}
        true as _deleted,
        (select day from newest) as _changed_date,
    from vanished

    {%- endif %}

)

select * from final
{%- endif -%}
{%- endmacro %}


{#- For snapshot_state(): relations to compare, and columns (pipeline_assets/dbt_plugin/snapshots.py). None while dbt
    parses. -#}
{% macro read_snapshot(source, contract, keys) -%}
    {%- if not execute -%}
        {{- return(none) -}}
    {%- elif not _follows_lake() -%}
        {{- return(lake('unread_snapshot', contract_name=contract, keys=keys, upstream=source ~ '')) -}}
    {%- endif -%}
    {{- return(lake(
        'read_snapshot', model=_table(this), upstream=_table(source), contract_name=contract, keys=keys
    )) -}}
{%- endmacro %}
