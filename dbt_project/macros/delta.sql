{#- Materialization of every model: a Delta table `<lake>/<schema>/<model>`, written by pipeline_assets.lake. One commit
    holds the rows and the upstream versions they reflect. Options, under `meta` in the model's config:

    strategy: overwrite    all rows, each time
              append       the query's rows, once per batch (`batch_id`, else the upstream versions, else the invocation)
              replace      the touched days (`date_column`) or the touched keys (`unique_key`)
              merge        upsert by `unique_key`; an older `sequence` never wins
    unique_key             columns that name a row. With the partition column among them (a function of the others), only
                           the partitions of the keys that come are read and written
    partition_by           Delta partition column
    date_column            the day of a row; commits list the days they touched, for the models downstream
    optional               true: never built, it counts as empty; for a source that a lake may not have, and what is made
                           of it. A source says so in the `meta` of its config
    optional               to models downstream the table is empty as long as it was never built: its source may be none
                           of this lake's
-#}
{% materialization delta, adapter='duckdb', supported_languages=['sql'] %}
    {{ run_hooks(pre_hooks) }}

    {%- if config.get('contract').enforced -%}
        {%- do get_assert_columns_equivalent(sql) -%}
    {%- endif -%}
    {%- set outcome = lake('write', model=_table(this), sql=sql) -%}
    {%- call noop_statement('main', outcome['message'], 'DELTA', outcome['rows']) -%}
        {{ sql }}
    {%- endcall -%}

    {{ run_hooks(post_hooks) }}
    {{ return({'relations': [this.incorporate(type='view')]}) }}
{% endmaterialization %}
